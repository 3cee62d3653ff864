import{u as a,v as b,w as c,x as d}from"./chunk-KR3HK2JJ.js";import"./chunk-H57LH43S.js";export{d as ccipRequest,c as offchainLookup,b as offchainLookupAbiItem,a as offchainLookupSignature};
