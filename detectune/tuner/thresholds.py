"""Where the method draws its lines. Fractions are of 1.

PLAYBOOK marks figures of the Deep Learning Tuning Playbook (Godbole et al. 2023,
github.com/google-research/tuning_playbook), used as given. OURS marks what it leaves open: chosen so that studies
with a known answer are judged rightly, on other seeds than those it was chosen with (bench/gates.py).
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
SATURATED = 0.4  # OURS: a run that gains nothing after this part of it
NOISE_FACTOR = 2.0  # OURS: a difference of this many standard deviations of a curve's noise is one

# Between rounds.
FIRST_ROUND = 0.4  # OURS: of all trials
ROUND_LEAST = 4  # OURS: trials of a round
GOOD_PART = 0.25  # OURS: of the complete trials, by which a range is narrowed ...
GOOD_LEAST = 5  # OURS: ... but never fewer
NARROW_MARGIN = 0.15  # OURS: of a range, kept on both sides of the good trials
NARROW_WORTH = 0.1  # OURS: of a range, that must go for it to be narrowed at all
NARROW_LEAST = 0.3  # OURS: of a range, kept in any case

# Noise: the playbook asks for it to be measured and gives no figure.
CONFIDENCE = 0.95  # OURS: of every interval
MOST_SEEDS = 100  # OURS: a difference that needs more seeds is called none
LOOKS = 2  # OURS: at the best beside the base; for the second as many seeds again, where they promise to settle a tie

# Instability above the best rate, and what gradient norms advise (`detectune gradients`).
RATE_FACTORS = (2.0, 5.0, 10.0)  # PLAYBOOK: look at rates above the best one; OURS: these
CLIP_PERCENTILE = 0.9  # PLAYBOOK: clip at the 90th percentile of the gradient norms
CLIPPED_TOO_MANY = 0.5  # PLAYBOOK: more than half of the updates clipped: lower the rate instead
SETTLED = 1.5  # OURS: norms within this factor of the run's median have settled
NORMS_LEAST = 20  # OURS: a 90th percentile of fewer is two of them
NORM_WINDOW = 0.02  # OURS: of the run: norms whose median is compared, so that one bad batch does not count

# Learning rates (`detectune lr-find`); the playbook looks at the whole curve instead.
RATES_PER_DECADE = 3  # OURS: of the first pass
RATE_PRECISION = 1.05  # OURS: the critical rate is bracketed within this factor
RATE_SAFETY = 0.5  # OURS: a start lies no higher than this part of the critical rate
RATE_MARGIN = 0.02  # OURS: losses within this part of the whole fall of the lowest are as good

# Batches (`detectune batch-find`); the playbook: the batch is no knob for quality, take what trains fastest.
AS_FAST = 0.9  # OURS: of the highest throughput
BATCH_RESOLUTION = 16  # OURS: the largest batch is known to one part in so many

# Iterations (`detectune steps`).
CURVE_LEAST = 4  # OURS: evaluations
REACHED = 0.99  # OURS: of the whole gain: enough
MOST_LONGER = 4.0  # OURS: a fit is not believed further than so many times the run
SPARE = 1.5  # OURS: of the best step of a run that was too long
