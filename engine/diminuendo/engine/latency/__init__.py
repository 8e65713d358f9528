"""What forms of a layer take on this device: timed beside the layer itself, cached, interpolated over ranks.

A forward of the whole network says what each layer takes where it stands, with its inputs and weights as near in the
caches as they are there (`whole`). Forms are timed one layer at a time, on the inputs that the layer was seen to take,
in turn with the layer itself (`table`): of that only ratios are used, which noise and changes of the clock, meeting
both alike, move little. The time of a plan is the original's, with each layer's share times the ratio of its form.
What is left over, layers that are never compressed and all that is no layer, is taken as fixed.

Times are of one forward of one sample, with torch's current number of threads, in the layout that the network runs in.
"""

from diminuendo.engine.latency.cache import LatencyCache, default_folder
from diminuendo.engine.latency.table import Timetable
from diminuendo.engine.latency.whole import OriginalTimes

__all__ = ["LatencyCache", "OriginalTimes", "Timetable", "default_folder"]
