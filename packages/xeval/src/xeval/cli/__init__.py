"""The commands of xeval: what is asked, what is said, and how progress looks."""
