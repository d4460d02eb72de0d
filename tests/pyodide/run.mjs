// node run.mjs PYODIDE_FOLDER REPOSITORY SITE PYTEST_ARGUMENTS...
// Runs the repository's tests inside one Pyodide; the exit status is pytest's.
import { pathToFileURL } from "node:url";
import path from "node:path";

const [folder, repository, site, ...args] = process.argv.slice(2);
const module = path.join(folder, "node_modules", "pyodide", "pyodide.mjs");
const { loadPyodide } = await import(pathToFileURL(module).href);
const python = await loadPyodide();
for (const [place, root] of [["/repository", repository], ["/site", site]]) {
  python.FS.mkdirTree(place);
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, place);
}
python.globals.set("arguments", python.toPy(args));
let status = 3;
try {
  status = python.runPython(`
import os, sys
sys.dont_write_bytecode = True
sys.path[:0] = ["/repository", "/site"]
os.chdir("/repository")
from tests.pyodide.inside import main
main(list(arguments))
`);
} catch (error) {
  console.error(error.message); // without the stack, which quotes a megabyte of Pyodide's own source
}
process.exit(status);
