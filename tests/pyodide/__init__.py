"""CPython 3.14 and 3.15, compiled to WebAssembly, run the tests of rewriting under Node."""
