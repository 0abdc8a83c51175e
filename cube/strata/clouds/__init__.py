"""The cloud-feature stratum: tiles by what clouds look like in them, or by ABI's own cloud products."""
