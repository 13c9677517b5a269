"""What does it look like? Plain data in, a table or a picture out.

`tables` aligns text; `plots` draws with matplotlib, the extra `plots`, and is therefore imported by its own name:
`from minibert.show.plots import plot_matrix`. This wing imports nothing of minibert but its errors and checks.
"""

from minibert.show.tables import matrix, table

__all__ = ["matrix", "table"]
