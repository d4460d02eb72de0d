"""How a function is rewritten: code in, code out."""
