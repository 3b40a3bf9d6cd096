"""How good lists, scores and labels were: pure arithmetic over what an evaluation yields, its report, and the simulated world."""
