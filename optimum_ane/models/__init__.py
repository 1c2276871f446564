"""One file per architecture, named as its `model_type`. Importing this package registers them all.

What goes by its graph is registered with them.
"""

from optimum_ane.exporters import stock_registration as stock_registration
from optimum_ane.models import albert as albert
from optimum_ane.models import bert as bert
from optimum_ane.models import camembert as camembert
from optimum_ane.models import deberta_v2 as deberta_v2
from optimum_ane.models import distilbert as distilbert
from optimum_ane.models import electra as electra
from optimum_ane.models import modernbert as modernbert
from optimum_ane.models import mpnet as mpnet
from optimum_ane.models import roberta as roberta
from optimum_ane.models import xlm_roberta as xlm_roberta
