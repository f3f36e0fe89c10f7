"""Fitting: an estimator of satisfaction from people's ratings.

Needs scikit-learn; what comes out does not.
"""
