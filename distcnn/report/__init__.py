"""Reports on runs, as a web page in one file or a picture of curves: ``python -m distcnn.report``.

``records`` reads run directories, ``inspection`` looks at a network and its test set, ``facts``
and ``proof`` put them into words and tables, ``charts`` and ``pictures`` draw, ``page`` fills in
``templates/report.html``.
"""
