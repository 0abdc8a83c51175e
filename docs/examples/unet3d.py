"""A 3-D U-Net tells CloudSat's nine classes by height: ``python unet3d.py TILES STATISTICS [STEPS]``."""

import sys
from itertools import chain, islice, repeat

import torch
from torch.nn import GELU, Conv3d, GroupNorm, Linear, Module, ModuleList, Sequential
from torch.nn.functional import cross_entropy, interpolate, max_pool3d

from loaders import tile_loader


def block(before, after):
    return Sequential(Conv3d(before, after, 3, padding=1), GroupNorm(8, after), GELU())


class UNet3D(Module):
    def __init__(self, bands, bins, classes=9, width=16):
        super().__init__()
        self.down = ModuleList([block(bands, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.up = ModuleList([block(6 * width, 2 * width), block(3 * width, width)])
        self.told, self.shape = Linear(width, bins * classes), (bins, classes)

    def forward(self, pixels, at):  # (batch, time, bands, y, x), and row and column of each profile
        seen = [self.down[0](pixels.transpose(1, 2))]
        for stage in self.down[1:]:
            seen.append(stage(max_pool3d(seen[-1], (1, 2, 2))))
        image = seen.pop()
        for stage in self.up:
            image = stage(torch.cat([interpolate(image, seen[-1].shape[2:]), seen.pop()], 1))
        sample, (row, column) = torch.arange(len(at))[:, None], at.clamp(min=0).long().unbind(-1)
        return self.told(image.mean(2)[sample, :, row, column]).unflatten(-1, self.shape)


def train(tiles, statistics, steps=1000, batch_size=2, **options):
    batches = tile_loader(tiles, batch_size, labels="cloudsat", statistics=statistics, **options)
    model = UNet3D(len(batches.source.bands), batches.source[0].labels["cloudsat"].shape[-1])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step, batch in enumerate(islice(chain.from_iterable(repeat(batches)), steps)):
        at, inside = batch.labels["cloudsat_pixel"], batch.labels["cloudsat_mask"]
        wanted = batch.labels["cloudsat"].long().masked_fill(~inside[..., None], -1)
        told = model(batch.pixels, at.masked_fill(~inside[..., None], 0))
        loss = cross_entropy(told.flatten(0, 2), wanted.flatten(), ignore_index=-1)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        if step % 50 == 0:
            right = (told.argmax(-1) == wanted)[wanted >= 0].float().mean()
            print(f"step {step}: loss {loss.item():.3f}, {right:.3f} right")
    return model


if __name__ == "__main__":
    train(*sys.argv[1:3], steps=int(sys.argv[3]) if len(sys.argv) > 3 else 1000, workers=4)
