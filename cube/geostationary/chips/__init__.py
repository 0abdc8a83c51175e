"""SatVision-Pix4D's chips: taken into one store, and given back as they were."""
