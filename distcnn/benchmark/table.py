"""What was measured, to be read: from the same dictionary that ``--json`` writes."""

from __future__ import annotations

from collections.abc import Iterator

from distcnn.benchmark.results import Results
from distcnn.system.wording import counted, plural, printable

MIB = 2**20
WORDS = {
    "data": "data (fill)",
    "waiting": "late ranks",
    "update": "optimizer",
    "rest": "rest (Python)",
}
"""How a table calls parts of a step."""


def table(results: Results) -> str:
    """All of it, in lines."""
    parts = (_head, _speed, _split, _products, _communication, _evaluation, _memory, _peer)
    return "\n".join(line for part in parts for line in part(results))


def part_title(name: str, results: Results) -> str:
    """What a row of the split that is no layer is called."""
    return f"{results['flags']['reduction']} sum" if name == "local sum" else WORDS.get(name, name)


def _head(results: Results) -> Iterator[str]:
    flags, machine = results["flags"], results["machine"]
    yield (
        f"model     {printable(results['model'])}, {counted(results['parameters'], 'parameter')},"
        f" {printable(results['data'])}"
    )
    yield (
        f"batch     {counted(flags['num_shards'], 'shard')} x"
        f" {counted(flags['microbatch_size'], 'example')} = {results['global_batch_size']:,} a"
        f" step, {flags['reduction']} sum, {flags['optimizer']}, overlap"
        f" {'on' if results['overlap'] else 'off'}"
    )
    threads = machine["blas_threads"]
    yield (
        f"ranks     {results['world_size']} ({machine['mpi']}), {threads}"
        f" {plural(int(threads), 'BLAS thread')} each ({machine['blas']}), NumPy"
        f" {machine['numpy']}, Python {machine['python']}"
    )
    yield f"machine   {machine['processor']}, {counted(machine['cores'], 'core')}"


def _speed(results: Results) -> Iterator[str]:
    yield (
        f"speed     {results['images_per_second']:,.0f} images/s,"
        f" {results['step_seconds'] * 1e3:.2f} ms a step: median of"
        f" {counted(results['turns'], 'turn')} of {counted(results['steps_a_turn'], 'step')}:"
        f" {_turns(results['images_per_second_turns'])}"
    )


def _split(results: Results) -> Iterator[str]:
    split = results["split"]
    step, images = split["step_seconds"], split["images"]
    yield (
        f"\none step, rank 0: µs for each of its {counted(images, 'image')} "
        f"(mean of the middle half of {counted(split['steps'], 'step')} with stopwatches, "
        f"{step / results['step_seconds'] - 1:+.1%} against those without)"
    )
    yield f"{'':<16}{'forward':>9}{'backward':>9}{'together':>10}{'of step':>9}{'products':>10}"

    def line(name: str, cells: list[float | None], seconds: float, products: float | None) -> str:
        columns = "".join(
            " " * 9 if cell is None else f"{cell / images * 1e6:9.2f}" for cell in cells
        )
        share = f"{products / step:9.1%}" if products else ""
        return f"{name:<16}{columns}{seconds / images * 1e6:10.2f}{seconds / step:9.1%} {share}".rstrip()  # noqa: E501

    total = 0.0
    for row in split["layers"]:
        forward, backward = row["forward_seconds"], row["backward_seconds"]
        products = row["forward_products_seconds"] + row["backward_products_seconds"]
        total += products
        yield line(row["name"], [forward, backward], forward + backward, products)
    for row in split["others"]:
        yield line(part_title(row["name"], results), [None, None], row["seconds"], None)
    yield line("step", [None, None], step, total)


def _products(results: Results) -> Iterator[str]:
    yield (
        "\nmatrix products alone, without anything else: im2col's are the bound that a step is"
        " measured against"
    )
    for title, key in (("im2col's", "plain_products"), ("as called", "products")):
        each = results[key]
        yield (
            f"{title:<16}{each['seconds'] * 1e3:.2f} ms, {each['fraction']:.1%} of a step (turns:"
            f" {' '.join(f'{fraction:.1%}' for fraction in each['fraction_turns'])}):"
            f" {each['calls']} calls, {each['operations'] / 1e9:.3f} GFLOP at"
            f" {each['gflop_per_second']:.1f} GFLOP/s a rank"
        )


def _communication(results: Results) -> Iterator[str]:
    each = results["communication"]
    hidden = (
        each["hidden_seconds"] / each["allreduce_seconds"] if each["allreduce_seconds"] else 0.0
    )
    yield "\nbetween ranks, ms a step"
    yield (
        f"allreduce       {each['allreduce_seconds'] * 1e3:.2f}, of which {hidden:.0%} hidden;"
        f" waited {each['waited_seconds'] * 1e3:.2f}; for late ranks"
        f" {each['late_ranks_seconds'] * 1e3:.2f}; {results['communication_fraction']:.1%} of a"
        " step"
    )


def _evaluation(results: Results) -> Iterator[str]:
    each = results["evaluation"]
    yield (
        f"\nevaluation      {each['images_per_second']:,.0f} images/s:"
        f" {_turns(each['images_per_second_turns'])}"
    )


def _memory(results: Results) -> Iterator[str]:
    peaks = [each["peak_memory_bytes"] for each in results["memory_ranks"]]
    yield (
        f"\npeak memory, MiB: {' '.join(f'{peak / MIB:,.1f}' for peak in peaks)} (each rank); of"
        " rank 0's"
    )
    for name, size in results["memory_ranks"][0]["parts"].items():
        yield f"{name:<32}{size / MIB:10.1f}{size / peaks[0]:9.1%}"


def _peer(results: Results) -> Iterator[str]:
    if "peer" not in results:
        return
    peer = results["peer"]
    yield (
        f"\npeer: {peer['name']} {peer['version']}, by turns, images/s; the better of its layouts"
        " in each turn counts"
    )
    yield (
        f"{'distcnn':<16}{results['images_per_second']:,.0f}:"
        f" {_turns(results['images_per_second_turns'])}"
    )
    yield f"{'peer':<16}{peer['images_per_second']:,.0f}: {_turns(peer['images_per_second_turns'])}"
    for layout, speeds in peer["layouts"].items():
        yield f"  {layout:<14}{_turns(speeds)}"
    yield (
        f"{'ratio':<16}{peer['ratio']:.2f} times the peer's speed (turns:"
        f" {' '.join(f'{each:.2f}' for each in peer['ratio_turns'])})"
    )


def _turns(speeds: list[float]) -> str:
    return " ".join(f"{speed:,.0f}" for speed in speeds)
