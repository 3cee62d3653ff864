import{b as a,c as b,d as c,e as d,f as e}from"./chunk-T2YVIVKN.js";import"./chunk-H57LH43S.js";export{e as encodeToCurve,d as hashToCurve,b as schnorr,a as secp256k1,c as secp256k1_hasher};
