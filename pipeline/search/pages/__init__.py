"""Pages: what a study that is over leaves, for people and for other programs.

comparison    tuned models side by side
charts        the charts of trials, space and finals
page          HTML pages, in the report's style
outputs       pages, tables and artifacts of a study that is over
"""
