"""Who may start, when, and on which rung: admission and the ladder, as decisions, and a layer of the stack that acts.

config.py          what the ladder's rungs were measured to do, and the policy
capacity.py        how much may run at a time on a device that several rungs share
prediction.py      time to first token and per token, learned from what was seen
quality_budget.py  how many answers may still be degraded
ladder.py          which rung a request gets; how far down the ladder to go
waiting.py         the queue
dispatcher.py      all of it as one state machine without a clock
admitting.py       the layer: the only file here that waits for anything
"""
