from common import DTYPE, MAX_BATCH, np, run, session
from mosec import Server, Worker


class Model(Worker):
    def __init__(self):
        super().__init__()
        self.ready = session()

    def forward(self, data):
        return [{"y": row.tolist()} for row in run(self.ready, np.array([one["data"] for one in data], DTYPE))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=MAX_BATCH, max_wait_time=1)
    server.run()
