"""3D convolutions that are computed as 2D ones, where the kernel allows it.

Most kernels of projection networks have size 1 along Z, and the others along W and D. Such a kernel
is a 2D convolution of the slices, or of rows of voxels along Z. With the channels last in memory,
both are views. On a CPU, with few channels, this is several times as fast as PyTorch's Conv3d.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PlaneConv3d(nn.Conv3d):
    """`nn.Conv3d` without bias, dilation and groups; the results are equal up to rounding."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, the name in nn.Conv3d
        """(N, C, Z, W, D) to (N, out_channels, Z', W', D')."""
        z_size, w_size, d_size = self.kernel_size
        if z_size == 1 and self.stride[0] == 1 and self.padding[0] == 0:
            return self._convolve_slices(input)
        if w_size == d_size == 1 and self.stride == (1, 1, 1) and self.padding[1:] == (0, 0):
            return self._convolve_along_z(input)
        return super().forward(input)

    def _convolve_slices(self, x: Tensor) -> Tensor:
        n, _, z, _, _ = x.shape
        slices = x.transpose(1, 2).flatten(0, 1)  # (N * Z, C, W, D)
        _, w_pad, d_pad = _sizes(self.padding)
        y = functional.conv2d(
            slices, self.weight[:, :, 0], stride=self.stride[1:], padding=(w_pad, d_pad)
        )
        return y.reshape(n, z, *y.shape[1:]).transpose(1, 2)

    def _convolve_along_z(self, x: Tensor) -> Tensor:
        w, d = x.shape[3:]
        rows = x.flatten(3)  # (N, C, Z, W * D)
        y = functional.conv2d(rows, self.weight[..., 0], padding=(_sizes(self.padding)[0], 0))
        return y.reshape(*y.shape[:3], w, d)


def _sizes(padding: str | tuple[int, ...]) -> tuple[int, int, int]:
    """The padding along Z, W and D, which `nn.Conv3d` may also have as a word."""
    if isinstance(padding, str):
        raise TypeError(f"PlaneConv3d: expected numbers as padding, got {padding!r}")
    z, w, d = padding
    return z, w, d
