"""The base of the house: Solidity, its artefacts, and what two independent programs must agree on byte for byte."""
