"""Geostationary imagers, as the registry knows them."""

from __future__ import annotations

from cube.plug import Command, SourcePlug

__all__ = ["SOURCE"]

SOURCE = SourcePlug(
    commands={
        "abi": Command(
            "stratified ABI tiles",
            "cube.config:AbiConfig",
            "cube.geostationary.run:run_abi",
            explain="cube.geostationary.explain:explain",
        ),
        "cloudsat": Command(
            "ABI chips along CloudSat's track",
            "cube.geostationary.cloudsat:CloudsatConfig",
            "cube.geostationary.cloudsat:run_cloudsat",
        ),
    },
    inspection="cube.geostationary.inspect:ABI",
    checks="cube.geostationary.checks:CHECKS",
)
