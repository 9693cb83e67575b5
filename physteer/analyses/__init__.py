"""What is measured of a forecaster: steering, learned subspaces (das), probing; on one engine, each with its tables."""
