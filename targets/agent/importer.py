"""Imports from the agent's own zip file that compile a module once.

importlib asks a loader for each module's path first, and zipimport compiles the module to answer (CPython 3.6 to 3.13, `get_filename`).
"""

import os
import sys
import zipimport


class Importer(zipimport.zipimporter):
    """Knows a path by the name alone: there are only sources in the zip."""

    def get_filename(self, fullname: str) -> str:
        """Where the module lies. Raises ZipImportError when there is none of that name."""
        path = os.path.join(self.archive, self.prefix, fullname.rpartition(".")[2])
        return os.path.join(path, "__init__.py") if self.is_package(fullname) else path + ".py"


def install() -> None:
    """Use it for all zip files on the path from now on."""
    sys.path_hooks[:] = [Importer if hook is zipimport.zipimporter else hook for hook in sys.path_hooks]
    for path, finder in list(sys.path_importer_cache.items()):
        if type(finder) is zipimport.zipimporter:
            sys.path_importer_cache[path] = Importer(path)
