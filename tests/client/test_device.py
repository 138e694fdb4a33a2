import sqlite3
from datetime import timedelta

import msgspec
import pytest
from bundle_line import KEY, NOW, RUNTIMES, TableScorer, bundle, scorer_of
