"""Models that move in and out: folders of other layouts than a run's."""
