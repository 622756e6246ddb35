"""Attention: heads leave whole, and so do the units that go in and those that come out."""

from __future__ import annotations

from pipeline.pruning.surgery.flow import Rule, Site


def multi_head_attention(site: Site) -> None:
    """Kernels of query, key and value (width, heads, size), of the output (heads, size, width).

    A head is a unit that the output's kernel reads; the size of a head, by which scores are scaled, stays.
    """
    if site.config.get("use_gate"):
        raise site.not_followed()
    steps = 2 if site.config["use_bias"] else 1
    heads = site.units(site.config["num_heads"], "heads")
    key = "key" if site.call.arguments.get("key") is not None else "value"
    for number, argument in enumerate(("query", key, "value")):
        weight = number * steps
        site.hold("consumes", weight, 0, site.last(argument), rows=(0,))
        site.hold("produces", weight, 1, heads)
        if steps == 2:
            site.hold("biases", weight + 1, 0, heads)
    last = 3 * steps
    units = site.units(_width(site.output.shape[-1], site))
    site.hold("consumes", last, 0, heads, rows=(0, 1))
    site.hold("produces", last, -1, units)
    if steps == 2:
        site.hold("biases", last + 1, 0, units)
    site.option("num_heads", heads)
    site.option("output_shape", (units,))
    site.give(units)


def _width(size: int | None, site: Site) -> int:
    if size is None or len(site.config["output_shape"] or (size,)) != 1:
        raise site.not_followed()
    return size


RULES: dict[str, Rule] = {"MultiHeadAttention": multi_head_attention}
