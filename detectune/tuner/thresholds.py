"""Where the method draws its lines. Fractions are of 1.

PLAYBOOK marks figures of the Deep Learning Tuning Playbook (Godbole et al. 2023,
github.com/google-research/tuning_playbook), used as given. OURS marks what it leaves open: chosen so that studies
with a known answer are judged rightly (tests/tuner/test_gates.py).
"""

# Boundary: the playbook says "the best points cluster towards the edge" and gives no figure.
BEST_FRACTION = 0.1  # OURS: these are "the best trials" ...
BEST_LEAST = 4  # OURS: ... but never fewer
EDGE = 0.2  # OURS: this part of a range, on its scale, is its edge
EDGE_SHARE = 0.8  # OURS: so many of the best there are a cluster
WIDEN = 0.5  # OURS: a range grows by this part of itself, on its scale

# Enough points: the playbook wants "points in the good region" seen and gives no figure.
GOOD_REGION = 0.5  # OURS: this part of the way from the best value to the median
GOOD_ENOUGH = 5  # OURS: trials there
GOOD_TOO_FEW = 3  # OURS

# Infeasible trials: the playbook calls "a very large fraction" a reason to change the space.
INFEASIBLE_MANY = 0.1  # OURS: worth a look
INFEASIBLE_TOO_MANY = 0.4  # OURS: a very large fraction
INFEASIBLE_SEPARATION = 0.9  # OURS: balanced accuracy with which one knob's value tells where trials diverge

# Optimisation trouble.
LOSS_RISE = 1.5  # OURS: a loss above this many times its lowest so far has risen
RISES = 2  # OURS: separate rises of one run that make it unstable
TROUBLE_SHARE = 0.5  # OURS: of the best trials in trouble
OSCILLATION = 0.15  # OURS: noise between evaluations, late in a run, as part of all that the run gained
LATE = 0.5  # OURS: the second half of a run is late

# Curves.
TOO_LONG = 0.1  # PLAYBOOK: best step in the first 10 %: trained far too long
TOO_SHORT = 0.25  # PLAYBOOK: best step in the last 25 %: perhaps too short
STILL_RISING = 0.02  # OURS: what the last quarter must add, as part of all that the run gained
NOISE_FACTOR = 2.0  # OURS: a difference of this many standard deviations of a curve's noise is one
