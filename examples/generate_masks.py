"""Cut photographs into unlabelled masks, keep them in a store, and look at them on a sheet.

    hatch run python examples/generate_masks.py [PHOTOS] [OUT]

Superpixels need no weights. SAM's masks are `SamMasks(load_sam("facebook/sam-vit-base"))`, DINO's
`DinoMasks(*load_backbone())`; everything else stays as it is.
"""

import sys
from pathlib import Path

from PIL import Image

from maskcluster import MaskRules, Slic, contact_sheet, generate
from segbench import ScenesDataset

photos = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/photos")
out = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/masks")
if not photos.exists():  # none of your own
    photos.mkdir(parents=True)
    for number, scene in enumerate(ScenesDataset(split="val", count=6, size_px=96)):
        Image.fromarray(scene.image).save(photos / f"{number}.png")

report = generate(photos, out, Slic(), rules=MaskRules())  # killed, it goes on where it stopped
for key in report.store:
    masks = report.store[key]
    print(f"{key}: {len(masks)} masks, the largest of {masks.areas.max()} pixels")
print(f"sheet: {contact_sheet(report.store, photos, out / 'sheet.png')}")
