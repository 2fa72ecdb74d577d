"""Pages: what a study that is over leaves, for people and for other programs.

comparison    tuned models side by side
drawing       geometry of charts: dots, strokes and boxes on axes
charts        values, curves, cost and finals of a study
space_charts  which parameters matter, and where the distance is low
page          HTML pages, in the report's style
outputs       pages, tables and artifacts of a study that is over
"""
