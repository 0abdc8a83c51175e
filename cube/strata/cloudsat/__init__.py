"""The CloudSat stratum: tiles along the track of CloudSat's radar, with the profiles that cross them."""
