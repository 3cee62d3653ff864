import{A as r,x as o}from"./chunk-PMNSINYO.js";function p(t){return o(r,{title:"Playground",children:"Soon."})}export{p as Playground};
