"""fdbook: flow policies, their Fisher geometry, and how to improve them on their own manifold."""
