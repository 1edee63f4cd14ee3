"""Write reforg/catalog/timm_tags.json: what timm's tags say about classes and preprocessing.

For every name that reforg shares with timm.

    python golden/record/timm_tags.py        (needs timm; never imports reforg)

Facts from the `pretrained_cfg` records of timm (Apache-2.0); the empty tag is a name without one.
"""

import json
import re
from pathlib import Path

import timm
from timm.models import get_arch_pretrained_cfgs

PATTERNS = (
    r"vit_(tiny|small|base|large)_patch16_(224|384)",
    r"vit_base_patch32_(224|384)",
    r"vit_huge_patch14_224",
    r"vit_(small|base)_patch14_dinov2",
    r"deit_\w+_patch16_(224|384)",
    r"deit3_\w+",
)
TARGET = Path(__file__).parents[2] / "reforg" / "catalog" / "timm_tags.json"


def record(full_name: str) -> dict[str, object]:
    config = timm.get_pretrained_cfg(full_name)
    return {
        "num_classes": config.num_classes,
        "img_size": config.input_size[-1],
        "mean": list(config.mean),
        "std": list(config.std),
        "crop_pct": config.crop_pct,
        "crop_mode": config.crop_mode,
        "interpolation": config.interpolation,
        "hub": config.hf_hub_id,
    }


def main() -> None:
    names = [name for name in timm.list_models() if any(re.fullmatch(pattern, name) for pattern in PATTERNS)]
    tags: dict[str, dict[str, dict[str, object]]] = {name: {"": record(name)} for name in names}
    for name, entries in tags.items():
        for full_name in get_arch_pretrained_cfgs(name):
            entries[full_name.partition(".")[2]] = record(full_name)
    lines = ",\n".join(
        f' "{name}": {{\n' + ",\n".join(f'  "{tag}": {json.dumps(entry)}' for tag, entry in entries.items()) + "\n }"
        for name, entries in tags.items()
    )
    TARGET.write_text(f'{{"timm": "{timm.__version__}", "models": {{\n{lines}\n}}}}\n')
    print(f"{TARGET.name}: {len(tags)} names, {sum(map(len, tags.values()))} entries, timm {timm.__version__}")


if __name__ == "__main__":
    main()
