"""Whoever waits for a compiler is told what is compiled, and how far that is; and where nothing can be kept it still works."""

import subprocess
import sys

CODE = """
import warnings
from monopose import compiled

heard = []
compiled.tell(heard.append)
compiled.EVERY_S = 1e9  # however slow this machine is


def made(module):
    space = {"__name__": module}
    exec("def double(x):\\n    return 2 * x", space)
    with warnings.catch_warnings(record=True) as said:  # code without a file has no place on disk
        warnings.simplefilter("always")
        function = compiled.kernel()(space["double"])
    return function, [str(w.message) for w in said if "NUMBA_CACHE_DIR" in str(w.message)]


double, said = made("monopose.pnp.invented")
other, again = made("somebody.else")
assert (len(said), len(again)) == (1, 0)
assert heard == []  # nothing is compiled before it is called
assert other(2) == double(2) == double(2.0) / 1 == 4
assert len(heard) == 1 and "PnP kernels" in heard[0] and "once" in heard[0], heard
compiled.EVERY_S = 0.0
assert double(2j) == 4j
assert len(heard) == 2 and heard[1].startswith("still compiling PnP kernels: 3 done in"), heard
"""


def test_a_line_says_once_what_is_compiled():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
