"""The model catalogue and the weights: facts about models and where their files are.

Stands below `quietdesk` and imports nothing of it.
"""
