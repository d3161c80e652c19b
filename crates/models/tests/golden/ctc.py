"""Makes ctc.json with torch's CTC loss: python ctc.py > ctc.json"""

import json

import torch

torch.manual_seed(7)
batch, time, classes = 4, 12, 6
lengths = [12, 9, 12, 7]
targets = [[1, 2, 2, 5], [3], [], [4, 4, 1]]
logits = (2 * torch.randn(batch, time, classes)).requires_grad_()
losses = torch.nn.functional.ctc_loss(
    logits.log_softmax(-1).transpose(0, 1),
    torch.tensor([symbol for target in targets for symbol in target]),
    torch.tensor(lengths),
    torch.tensor([len(target) for target in targets]),
    blank=0,
    reduction="none",
)
losses.sum().backward()
print(
    json.dumps(
        {
            "reference": f"torch {torch.__version__}",
            "classes": classes,
            "lengths": lengths,
            "targets": targets,
            "logits": logits.detach().flatten().tolist(),
            "losses": losses.tolist(),
            "gradient": logits.grad.flatten().tolist(),
        }
    )
)
