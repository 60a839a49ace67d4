"""How updates of many sites become one global model: written, checked, added exactly, stepped, kept on disk.

Data in: the tensors of one client update after the other, with case counts. Data out: the next server state
and its checkpoint. Tensors are NumPy arrays; nothing here trains, sees images or talks to a network.
"""
