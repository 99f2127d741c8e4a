"""``python -m benchmarks.residuals FOLDER``: residuals of a finished comparison, by which ``foveal compare`` foretells power; writes the package's file.

Residuals are those of the model variant + seed, over the variants whose spread is pooled; what each is of goes with them.
"""

import json
import sys
from pathlib import Path

import numpy as np

import foveal.lab.compare
from foveal.lab.compare import collect


def main(arguments: list[str]) -> None:
    results = collect(Path(arguments[0]))
    metric, pool, recipe = results["metric"]["name"], results["statistics"], results["plan"]["recipe"]
    table = np.array([arm["metrics"][metric]["by_seed"] for arm in results["arms"] if arm["name"] in pool["members"]])
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    about = f"{len(table)} variants × {table.shape[1]} seeds × {recipe['steps']} steps on {recipe['data']['kind']}, {results['created'][:10]}"
    values = {
        "about": about,
        "data": recipe["data"]["kind"],
        "metric": metric,
        "own_data": results["plan"]["own_data"],
        "deviation": pool["deviation"],
        "degrees": pool["degrees"],
        "members": pool["members"],
        "residuals": [[round(float(value), 6) for value in row] for row in residuals],
    }
    path = Path(foveal.lab.compare.__file__).with_name("residuals.json")
    path.write_text(json.dumps(values, indent=1) + "\n")
    print(f"{path}: {about}, sd {pool['deviation']:.5f}")


if __name__ == "__main__":
    main(sys.argv[1:])
