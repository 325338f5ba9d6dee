"""One rank of a test, or the process alone that ranks are compared with.

    python ranks_masks_script.py RANK WORLD FOLDER

Writes FOLDER/WORLD-RANK.pt: for three steps of training in float64, on this rank's part of the
batches, the loss (its mean over ranks), the gradient norm, what the log says,
and the weights at the end.
"""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from maskcluster.data.dataset import MaskedPhotos, batches
from maskcluster.training.launch import Ranks
from maskcluster.training.monitor import Tally, cluster_statistics
from maskcluster.training.schedule import build_optimizer, rate_share, set_rates
from maskcluster.training.step import training_step
from maskcluster.training.train import build_model

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))
CPU = torch.device("cpu")

CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "no balance": {"cluster": {"balance": False}},
    "no clustering": {"cluster": {"targets": "masks"}},
    "at logits": {"model": {"loss_at": "logits"}},
}


def data_set(folder: Path, config: Any) -> MaskedPhotos:
    """Every third photograph has no mask."""
    photos, masks, _ = case.shapes(folder / "photos")
    for key in list(masks)[::3]:
        masks[key] = masks[key].select([])
    return MaskedPhotos(photos, masks, config.views)


def steps(config: Any, data: MaskedPhotos, ranks: Ranks) -> dict[str, Any]:
    model = build_model(config, CPU, clip=case.tiny_clip()).double()
    optimizer = build_optimizer(model, config.optim)
    shared, tally = ranks.share(model), Tally()
    found: dict[str, Any] = {"loss": [], "norm": [], "log": []}
    loader = batches(data, batch=4, workers=0, start=0, stop=3, rank=ranks.rank, world=ranks.world)
    for step, batch in enumerate(loader):
        tally.add(len(batch.keys), batch.owner)
        set_rates(optimizer, rate_share(step, config.optim))
        out, norm = training_step(model, shared, optimizer, batch, config.optim, ranks)
        found["loss"].append(float(ranks.sum(out.loss)) / ranks.world)
        found["norm"].append(float(norm))
        if out.assignment is not None:
            found["log"].append(cluster_statistics(out.assignment, ranks))
    found["seen"] = tally.total(ranks, CPU)
    found["weights"] = model.state_dict()
    return found


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world
        )
    ranks = Ranks.current()
    found = {}
    for name, changes in CASES.items():
        config = case.changed(case.changed(optim={"total_steps": 3}), **changes)
        found[name] = steps(config, data_set(folder / f"{world}-{rank}", config), ranks)
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    Path(sys.argv[3], f"{sys.argv[2]}-{sys.argv[1]}").mkdir()
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
