# %% [markdown]
# # A BOP number
#
# How good is a run, in the figures that papers have? BOP's protocol wants a data set in its layout, a result file in its
# format and its score. The run here is the bundled one, and the data set is rendered, so that nothing has to be downloaded.

# %%
import csv
import shlex
from pathlib import Path

import monopose
from monopose.cli import main

IMAGES = 50  # tests: 1
LOOKS, REFINER = "--looks 6", ""  # tests: "--looks 1", "--no-refine"


def run(line):
    """What you would type into a shell."""
    code = main(shlex.split(line)[1:])
    assert code == 0, f"{line} ended with code {code}"


# %% [markdown]
# ## The data
#
# `synth` makes a whole BOP folder: pictures, poses, masks, models and the list of what counts, `test_targets_bop19.json`.
# Another seed than the training's. For the real LM-O photos: `monopose download lmo --parts models test`, and then the same
# commands with its folder.

# %%
objects = monopose.load("demo").path / "objects"
run(f"monopose synth {objects} --out data/five --split test --images {IMAGES} --seed 7")

# %% [markdown]
# ## The results
#
# Named METHOD_DATASET-SPLIT.csv, as the BOP server wants them. A pose for everything that the targets name; nothing is left
# out for being improbable, since the score rewards every answer.

# %%
run(f"""monopose predict --bop data/five --targets data/five/test_targets_bop19.json --model demo
    --out monopose_five-test.csv {LOOKS} {REFINER}""")
rows = list(csv.DictReader(Path("monopose_five-test.csv").read_text().splitlines()))
print(len(rows), "poses; the first:", rows[0])

# %% [markdown]
# ## The score
#
# AR is the mean of recalls by surface (MSSD) and in the picture (MSPD), symmetries taken into account; with `--vsd` also by
# visible surface (VSD), as BOP'19 has it, which takes longer. The figures are those of the bop_toolkit; `--json` prints them
# for programs.

# %%
run("monopose evaluate monopose_five-test.csv --data data/five")

# %% [markdown]
# ## Which part is to blame?
#
# With the true boxes the detector is out of the game. If the number is much better now, train the detector; if not, the
# coordinates.

# %%
run(f"""monopose predict --bop data/five --targets data/five/test_targets_bop19.json --model demo --true-boxes
    --out monopose-truebox_five-test.csv {REFINER}""")
run("monopose evaluate monopose-truebox_five-test.csv --data data/five")
