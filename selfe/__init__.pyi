from selfe.api.comparison import Comparison as Comparison
from selfe.api.comparison import compare as compare
from selfe.api.geneval import GenEval as GenEval
from selfe.api.geneval import Verdict as Verdict
from selfe.api.images import Images as Images
from selfe.api.runs import Run as Run
from selfe.api.runs import list_runs as list_runs
from selfe.api.runs import open_run as open_run
from selfe.api.runs import train as train
from selfe.api.scores import Failures as Failures
from selfe.api.scores import Scores as Scores

__version__: str
