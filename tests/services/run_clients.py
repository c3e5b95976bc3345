"""Runs programs of this environment, each in a fork of this process, which has imported what they are made of: an import
takes a second of a core, and a run without it a fraction.

Each line of the standard input is a run in JSON, and answered by a line. Ends with its standard input.
"""

import gc
import importlib
import json
import os
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from tempfile import TemporaryFile


def run(program, args, env, folder, streams, imported):
    """Does in a fork what the program's file does in a process of its own."""
    for descriptor, file in enumerate([open(os.devnull), *streams]):
        os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    os.environ.update(env)
    sys.argv = [program, *args]
    try:
        sys.exit(main_of(program)())
    finally:
        imported.write("\n".join(sys.modules).encode())
        imported.flush()


def main_of(program):
    (entry,) = entry_points(group="console_scripts", name=os.path.basename(program))
    return entry.load()


def content(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def main():
    for line in sys.stdin:
        call = json.loads(line)
        sys.argv = [call["program"]]
        main_of(call["program"])
        with TemporaryFile() as stdout, TemporaryFile() as stderr, TemporaryFile() as imported:
            gc.freeze()
            child = os.fork()
            if child == 0:
                run(**call, streams=[stdout, stderr], imported=imported)
            status = os.waitpid(child, 0)[1]
            print(json.dumps([status, content(stdout), content(stderr)]), flush=True)
            # Programs load their commands by name; the next has them at once.
            for module in content(imported).split():
                with suppress(Exception):
                    importlib.import_module(module)


main()
