"""May this place run that archive? Facts are recorded at creation and compared before anything is touched.

``host`` compares what a manifest says of the creating machine and of the engine's needs with what is here,
``files``, ``delta``, ``pids`` and ``ports`` what the images are going to ask for. Every refusal is an Incompatible that names the
property, both values, and what to do. ``facts`` and ``limits`` are what is here.
"""
