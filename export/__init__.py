"""How an encoder becomes an engine: trace, lower, simplify, lint, prove."""
