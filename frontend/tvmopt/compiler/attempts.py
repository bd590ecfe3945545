"""One compilation that may end in several packages: they differ in what stays float32."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from tvmopt.compiler.build import build
from tvmopt.compiler.calibrate import DataCalibration, Detail
from tvmopt.compiler.draft import PackageDraft
from tvmopt.compiler.encodings import steps_of
from tvmopt.compiler.stages import Progress, clock, import_source, line_up, run_passes
from tvmopt.model import CompileRequest
from tvmopt.passes import CompileContext, Pass, Stage
from tvmopt.plugins import Plugins


@dataclass
class Attempt:
    """One way to finish the compilation.

    Attributes:
        ctx: of this way alone; its report is the package's.
        draft: the package, not yet published.
        seconds: what it took to make.
    """

    ctx: CompileContext
    draft: PackageDraft
    seconds: float

    @property
    def quantized(self) -> list[tuple[str, ...]]:
        """The ONNX nodes of each layer that computes in 8 bits."""
        layers = self.ctx.report.quantization
        return [layer.nodes for layer in layers if layer.dtype == "int8"]


class Attempts:
    """A model up to the stage QUANTIZE, which is finished in as many ways as it takes.

    A context manager: drafts that were not published are removed at its end.

    Attributes:
        imported: the original.
        module: what the passes before the stage QUANTIZE made of it.
    """

    def __init__(
        self,
        request: CompileRequest,
        plugins: Plugins,
        output: Path | None,
        progress: Progress,
        detail: Detail = lambda _text: None,
    ) -> None:
        """Imports the model and runs the passes before the stage QUANTIZE.

        Raises:
            TvmoptError: see `tvmopt.compile`.
        """
        self.request = request
        self.plugins = plugins
        self.progress = progress
        self.detail = detail
        self._output = output
        self._ctx = CompileContext(request, request.backend.target())
        passes = line_up(request, plugins, self._ctx)
        self.imported = import_source(self._ctx, plugins, progress, detail)
        count = sum(one.stage < Stage.QUANTIZE for one in passes)
        module = self.imported.module
        self.module = run_passes(passes[:count], module, self._ctx, plugins, progress)
        self._passes = passes[count:]
        self._before = count
        self._made = 0
        self._drafts = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._drafts.close()

    def finish(self, kept_float: Mapping[str, str] | None = None) -> Attempt:
        """Runs all other passes and builds.

        Args:
            kept_float: why a layer shall not be quantized, by the name of its ONNX node.
        """
        return self._finish(self._passes, kept_float or {})

    @cached_property
    def in_float(self) -> Attempt:
        """The same without quantization, made once."""
        passes = [one for one in self._passes if one.stage is not Stage.QUANTIZE]
        return self._finish(passes, {})

    def discard(self, attempt: Attempt) -> None:
        """Removes a draft that is of no use any more."""
        attempt.draft.discard()

    def runs(self, done: int, total: int) -> None:
        """Says how many runs of a model are done."""
        self.detail(f"{done} of {total} runs")

    def _finish(self, passes: list[Pass], kept_float: Mapping[str, str]) -> Attempt:
        start = time.perf_counter()
        ctx = self._context(kept_float)
        # Only the first one's passes are steps: others repeat them.
        progress = self.progress if self._made == 1 else lambda _step: None
        module = run_passes(passes, self.module, ctx, self.plugins, progress, already=self._before)
        ctx.report.steps = steps_of(ctx.simulated or self.module)
        self.progress("build" if self._made == 1 else f"build again ({self._made})")
        with clock(ctx, "build"):
            built = build(module, ctx.target)
        draft = PackageDraft(built, self.imported, self.request, ctx.report, self._output)
        self._drafts.enter_context(draft)
        return Attempt(ctx, draft, time.perf_counter() - start)

    def _context(self, kept_float: Mapping[str, str]) -> CompileContext:
        self._made += 1
        request = self.request
        if request.dump_dir is not None and self._made > 1:
            request = replace(request, dump_dir=request.dump_dir / f"attempt-{self._made}")
        report, calibration = deepcopy(self._ctx.report), self._ctx.calibration
        if isinstance(calibration, DataCalibration):
            calibration.report = report
        return CompileContext(request, self._ctx.target, report, calibration, kept_float=kept_float)
