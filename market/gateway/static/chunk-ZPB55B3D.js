import{A as c,B as d,y as a,z as b}from"./chunk-IGSMNXV7.js";import"./chunk-H57LH43S.js";export{d as ccipRequest,c as offchainLookup,b as offchainLookupAbiItem,a as offchainLookupSignature};
