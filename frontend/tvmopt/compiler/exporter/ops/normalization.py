"""Normalization over the last axes."""

from tvmopt.compiler.exporter.draft import Site


def layer_norm(site: Site) -> str:
    """`gamma (x - mean) / sqrt(variance + epsilon) + beta`."""
    rank = len(site.shape())
    axes = sorted(int(axis) % rank for axis in site.attrs.axes)
    if axes != list(range(axes[0], rank)):
        raise site.error(f"its axes {axes} are not the last ones")
    if not site.attrs.scale:
        raise site.error("it has no scale")
    inputs = [site.tensor(0), site.tensor(1)]
    if site.attrs.center:
        inputs.append(site.tensor(2))
    epsilon = float(site.attrs.epsilon)
    return site.last("LayerNormalization", *inputs, axis=axes[0], epsilon=epsilon)


WRITERS = {"relax.nn.layer_norm": layer_norm}
