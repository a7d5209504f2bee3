"""Plots of a diagnosis."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ldm_text.evaluation.comparison_plots import (
    COLOURS,
    INK,
    MARKERS,
    Plot,
    page_axes,
    set_plain_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes", dict[str, Any], list[str]], None]


def draw_plots(report: dict[str, Any]) -> list[Plot]:
    """Draw all plots for which a report of ``ldm-text diagnose`` has figures."""
    parts: tuple[tuple[str, str, Draw], ...] = (
        ("noise-recovery", "Token accuracy against noise-to-signal ratio", draw_recovery),
        ("information", "Recovered information over the training noise", draw_information),
        ("cross-entropy", "Decoder cross-entropy", draw_cross_entropy),
        ("interventions", "Decoder under intervention", draw_interventions),
        ("spectrum", "Spectrum of the latents", draw_spectrum),
        ("denoiser-error", "Error of the denoiser by time", draw_denoiser_error),
        ("prediction-norm", "Norm of the prediction along sampling", draw_norm),
    )
    plots = []
    for name, title, draw in parts:
        if name in ("denoiser-error", "prediction-norm") and name.replace("-", "_") not in report:
            continue
        points: list[str] = []
        with page_axes(name) as (figure, axes):
            draw(axes, report, points)
            if axes.get_legend_handles_labels()[1]:
                figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        plots.append(Plot(name, title, figure, points))
    return plots


def draw_line(
    axes: "Axes", x: Sequence[float], y: Sequence[float], label: str, points: list[str]
) -> None:
    """Draw a line whose points tell what they are; ``points`` grows by them."""
    number = len(axes.get_legend_handles_labels()[1])
    style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}
    axes.plot(x, y, linewidth=1.2, label=label, **style)
    for one_x, one_y in zip(x, y, strict=True):
        (mark,) = axes.plot([one_x], [one_y], linestyle="", **style)
        mark.set_gid(f"point-{len(points)}")
        points.append(f"{label}: {axes.get_xlabel()} {one_x:.4g}, {axes.get_ylabel()} {one_y:.4g}")


def draw_level(axes: "Axes", y: float, label: str, linestyle: str) -> None:
    """Draw a horizontal line."""
    axes.axhline(y, color=INK, alpha=0.7, linewidth=1, linestyle=linestyle, label=label)


def label_axes(axes: "Axes", x: str, y: str) -> None:
    """Name both axes."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def draw_recovery(axes: "Axes", report: dict[str, Any], points: list[str]) -> None:
    """Draw the recovery curves of the decoder alone and of one prediction."""
    label_axes(axes, "noise-to-signal ratio", "token accuracy")
    axes.set_xscale("log")
    ratios = [row["noise_ratio"] for row in report["decoder"]["noised"] if row["noise_ratio"]]
    set_plain_ticks(axes.xaxis, max(ratios) / min(ratios))
    for part, label in (("noised", "noisy latents"), ("predicted", "predicted latents")):
        curve = [row for row in report["decoder"].get(part, []) if row["noise_ratio"]]
        if not curve:
            continue
        draw_line(axes, ratios, [row["token_accuracy"] for row in curve], label, points)
    noised = report["decoder"]["noised"]
    draw_level(axes, noised[0]["token_accuracy"], "clean", "dashed")
    draw_level(axes, noised[-1]["token_accuracy"], "noise alone", "dotted")


def draw_information(axes: "Axes", report: dict[str, Any], points: list[str]) -> None:
    """Draw what is left of the information over the uniform time, at two noise shifts."""
    label_axes(axes, "uniform time u", "recovered information")
    found = report["noise_shift"]
    for name in ("current", "recommended"):
        if found[name] is None or found["information"] is None:
            continue
        shift = found[name]
        u = [t / (t + shift * (1 - t)) for t in found["times"]]
        draw_line(axes, u, found["information"], f"{name} shift {shift:.3g}", points)
    axes.plot([0, 1], [1, 0], color=INK, alpha=0.7, linewidth=1, linestyle="dashed", label="linear")


def draw_cross_entropy(axes: "Axes", report: dict[str, Any], points: list[str]) -> None:
    """Draw the cross-entropy on clean, noised, predicted and sampled latents."""
    label_axes(axes, "time t", "cross-entropy (nats a token)")
    decoder = report["decoder"]
    for part in ("noised", "predicted"):
        if part in decoder:
            times = [row["t"] for row in decoder[part]]
            draw_line(axes, times, [row["cross_entropy"] for row in decoder[part]], part, points)
    draw_level(axes, decoder["clean"]["cross_entropy"], "clean", "dashed")
    if "sampled" in decoder:
        draw_level(axes, decoder["sampled"]["cross_entropy"], "sampled, own text", "dotted")


def draw_interventions(axes: "Axes", report: dict[str, Any], points: list[str]) -> None:
    """Draw the cross-entropy under each intervention as bars."""
    label_axes(axes, "latents", "cross-entropy (nats a token)")
    scores = report["interventions"]
    bars = axes.bar(
        list(scores), [score["cross_entropy"] for score in scores.values()], color=COLOURS[0]
    )
    for bar, (name, score) in zip(bars, scores.items(), strict=True):
        bar.set_gid(f"point-{len(points)}")
        points.append(
            f"{name}: cross-entropy {score['cross_entropy']:.4g}, "
            f"token accuracy {score['token_accuracy']:.4g}"
        )


def draw_spectrum(axes: "Axes", report: dict[str, Any], points: list[str]) -> None:
    """Draw the eigenvalues of the covariance, largest first."""
    label_axes(axes, "direction", "variance")
    eigenvalues = [value for value in report["spectrum"]["eigenvalues"] if value > 0]
    axes.set_yscale("log")
    set_plain_ticks(axes.yaxis, eigenvalues[0] / eigenvalues[-1])
    draw_line(axes, range(1, len(eigenvalues) + 1), eigenvalues, "eigenvalues", points)


def draw_denoiser_error(axes: "Axes", report: dict[str, Any], points: list[str]) -> None:
    """Draw the error of each bin at its place in the uniform time of training."""
    label_axes(axes, "uniform time u", "squared error")
    bins = report["denoiser_error"]
    middle = [(index + 0.5) / len(bins) for index in range(len(bins))]
    for name, label in (("error", "denoiser"), ("linear_error", "linear")):
        draw_line(axes, middle, [one[name] for one in bins], label, points)


def draw_norm(axes: "Axes", report: dict[str, Any], points: list[str]) -> None:
    """Draw the root mean square of predictions at each step, and that of real latents."""
    label_axes(axes, "step", "root mean square")
    norms = report["prediction_norm"]
    steps = range(1, len(norms["steps"]) + 1)
    draw_line(axes, steps, norms["steps"], "prediction", points)
    draw_level(axes, norms["real_latents"], "real latents", "dashed")
