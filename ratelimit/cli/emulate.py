"""`ratecard emulate --tier T`"""

from __future__ import annotations

from typing import Any

import click

from ..emulator.batch_state import OVER_LIMIT
from ..emulator.windows import WINDOWS
from ._shared import TIER, Day, Readable, limit_options, own_limits, policy_option


def read_faults(text: str) -> Any:
    """Read --faults. Raises ConfigError for a rule that makes no sense."""
    from ..emulator import parse_faults

    return parse_faults(text)


@click.command("emulate")
@click.option("--tier", type=TIER, help='Usage tier to enforce, such as "tier_1" or "grow".')
@click.option("--model", "models", multiple=True, help="Serve only these models (default: every model of the tier).")
@limit_options
@click.option(
    "--window",
    type=click.Choice(WINDOWS),
    default="continuous",
    show_default=True,
    help="How limits per minute are enforced.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free one.")
@click.option("--speed", type=click.FloatRange(0, min_open=True), default=1.0, help="Run time this many times faster.")
@click.option("--latency", type=click.FloatRange(0), help="Fixed seconds per reply instead of the latency model.")
@click.option("--output-tokens", type=click.IntRange(1), help="Visible tokens of every reply instead of drawn ones.")
@policy_option
@click.option(
    "--faults",
    type=Readable("rules", read_faults),
    help='Inject faults, such as "500:every=10; 429:rate=0.1,model=o3-pro".',
)
@click.option("--batch-seconds", type=click.FloatRange(0), help="Emulated seconds in which a batch is answered.")
@click.option(
    "--batch-expires",
    type=click.FloatRange(0, min_open=True),
    help="Emulated seconds after which a batch expires, with the part of it that is done (default: 24 hours).",
)
@click.option("--batch-queue", type=click.IntRange(1), help="Input tokens per model that may wait in batches.")
@click.option(
    "--batch-over-limit",
    type=click.Choice(OVER_LIMIT),
    default="failed",
    show_default=True,
    help="What happens to a batch over that limit: it fails, or is refused when it is created.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same replies.")
@click.option("--at", type=Day(), help="Read the dated tables as of this day (default: today).")
def command(**options: Any) -> None:
    """Serve an OpenAI-compatible API on this machine that enforces a tier's limits as the real one was observed to.

    Point any client at the printed URL. Counters: GET /_emulator.
    """
    from ..emulator import serve

    limits = own_limits(options.pop("rpm"), options.pop("tpm"), options.pop("rpd"))
    if options["tier"] is None and limits is None:
        raise click.UsageError("say which limits to enforce: --tier tier_1, or --rpm/--tpm")
    models = options.pop("models")
    serve(on_ready=click.echo, limits=limits, models=models or None, **options)
