"""How a GAN is trained, and a flow beside it.

    losses       LOSSES: a pair of functions of logits, for D and for G
    flow         FLOW_LOSSES: losses of a generator without D, and their update
    terms        what a penalty is, and what it may look at
    penalties    PENALTIES: terms beside the loss, for D or for G; weight clipping
    regularisers those of PENALTIES that are no gradient penalties: LeCam, consistency
    step_terms   the penalties of one step: their weights, and when they are due
    augment      AUGMENTATIONS of D's inputs, with their strength; instance noise
    ada          the augmentation of StyleGAN2-ADA, whose strength D's certainty sets
    optimisers   OPTIMISERS
    schedules    values that change over training: constant, linear, cosine
    rates        learning rates, betas and the average of G at a step
    graphs       CUDA graphs: gradients captured once and replayed
    state        TrainState: all that a step changes; its curves; divergence
    step         train_step, and train, the loop
    cost         multiply-adds of a step
    checkpoint   atomic save and verified load; the exported networks
    warm_start   a recipe that begins with an earlier run's networks

To add a loss, penalty, augmentation or optimiser, write its function and one entry in its registry. The step asks
what an entry needs, never what it is called.
"""
