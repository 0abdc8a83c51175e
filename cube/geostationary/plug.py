"""Geostationary imagers, as the registry knows them."""

from __future__ import annotations

from cube.plug import Command, SourcePlug

__all__ = ["SOURCE"]

SOURCE = SourcePlug(
    commands={"abi": Command("stratified ABI tiles", "cube.config:AbiConfig", "cube.geostationary.run:run_abi")},
    inspection="cube.geostationary.inspect:ABI",
)
