"""What is shown: the style of every figure, the numbers behind them, and the figures themselves."""
