"""The cloud-feature stratum: tiles by what clouds look like in them, or by cloud products."""
