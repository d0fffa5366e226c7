"""The mathematics: densities, paths, flows, metrics, transport maps and trust regions. Nothing here knows of RL or plotting."""
